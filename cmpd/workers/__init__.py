"""Several processes on the same addresses, and one that watches over them.

    supervisor      resolves the ports, starts the workers, replaces those that end; has the admin listener, hears the
                    signals and answers systemd; serves no request and reads no key
    worker          the whole of `daemon.Daemon` with listeners of its own (SO_REUSEPORT); asked over a socket pair

The kernel spreads connections over the workers. What must be known to all of them is in the store. A worker whose
supervisor has gone finishes what it has in hand, and ends.
"""

from cmpd.workers.supervisor import supervise

__all__ = ["supervise"]
