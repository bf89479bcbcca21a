"""mprelay: a TCP relay that opens one door for a while and answers for it afterwards.

No Python API is promised: docs/contract.md says what is. The nouns, and which way each travels:

* A **client** (the manual's *requester*) connects to the **listener**. A **target** is where it wants to go.
* A **session** is one admitted client and its connection to the target, numbered by its **serial**.
* The **supervisor** process accepts clients. Its **policy** gives each a **verdict**. It hands the socket of each
  admitted client *down* to a worker, together with a **ticket** (serial and moment of admission).
* A **worker** process connects to the target and moves bytes, with one **pump** for each direction. It sends
  **events** *up*: connected, progress, closed.
* The **book** turns what the supervisor sees and what the workers report into **records**, one JSON line each. It
  owns the **ledger**, so what is counted is what is written.
* The **outlet** process owns stdout and stderr, and nothing else. Records reach it from the supervisor, over a
  socket. **Complaints**, which would otherwise be written to stderr, reach it from every process.

Each folder says which process runs its code:

* ``app``, ``supervisor`` and ``config`` run in the supervisor, ``worker`` in the workers, ``outlet`` in the
outlet.
* ``records`` writes what the supervisor records. ``channel`` connects supervisor and workers.
* ``core`` is pure. ``system`` has one module for each thing that a platform may lack.

:mod:`mprelay.supervisor.run` has the picture of how they are wired; docs/design.md has the reasons.
"""

__version__ = "0.2.0.dev0"
