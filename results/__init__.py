"""How the pages of ``docs/results`` are made: ``python -m results PART``. No part of the package, nor of the tests."""
