"""What ``check`` looks at, one module a subject. ``findings`` says what a finding is, ``order`` goes through all."""
