"""`python -m cmpd.workers`: one worker; only the supervisor starts it."""

from cmpd.workers.worker import main

if __name__ == "__main__":
    main()
