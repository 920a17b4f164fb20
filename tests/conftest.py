"""One thread for each test process: tests run in parallel, and threads wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
