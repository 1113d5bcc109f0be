"""``python -m channels_redis_fast``: the same as the command ``channels-redis-fast``."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
