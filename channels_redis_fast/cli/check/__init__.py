"""The subjects of ``check``, one module each. ``findings`` defines a finding, ``order`` goes through all subjects."""
