"""`python -m trellis.base_cache SOURCE`: what the chart's Job and init container run.

Exit codes: 0 the base is in the cache; 1 it is damaged and can't be mended offline; 2 what was asked for can't be had; 75 it may be had later, so that a Job tries again.
"""

import sys

from trellis.base_cache.main import main

sys.exit(main(sys.argv[1:]))
