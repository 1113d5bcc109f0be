"""The test suite. Runs against the installed package, compiled or pure, on servers it starts itself."""
