"""`python -m trellis.server`."""

import sys

from trellis.server.main import main

sys.exit(main())
