"""`python -m attndistill`: what DVC and MLflow call, so that the code of the working copy runs."""

import sys

from attndistill.cli import main

sys.exit(main())
