"""``python -m ingot`` is the command line."""

from ingot.cli.main import main

raise SystemExit(main())
