"""The load test: the real daemon, a client that checks every answer, and the floor to compare with."""
