"""cmpd as a distributed system: several nodes on one store, many clients, faults by a seeded schedule, and a checker.

python -m tests.chaos --seconds 60 --seed 7 --nodes 3 --store sqlite

run        the whole of it: a cluster, its clients and its faults, then the check
cluster    the nodes and their store
faults     what goes wrong, and when
clients    what end entities and the operator do, each call written down in a history
history    what was sent, what came back, and what was done meanwhile
contents   what the store holds at the end
checker    what must be true of a history and the contents of the store
"""
