"""`python -m archiver`."""

import sys

from archiver.main import main

sys.exit(main())
