"""mprelay: a TCP relay that opens one door for a while and answers for it afterwards.

The nouns, and which way each travels:

* A **client** (the manual's *requester*) connects to the **listener**; a **target** is where it wants to go.
* A **session** is one admitted client and its connection to the target, numbered by its **serial**.
* The **supervisor** process accepts clients, asks the **ACL** and the **ledger**, and hands each admitted
  socket *down* to a worker, together with a **ticket** (serial and moment of admission).
* A **worker** process connects to the target and moves bytes, one **pump** for each direction. It sends
  **events** *up*: connected, progress, closed.
* The **journal** turns what the supervisor sees and what the workers report into **records**, one JSON line
  each. It owns the ledger, so what is counted is what is written.
* The **outlet** process owns stdout and stderr, and nothing else. Records reach it from the supervisor, over a
  socket; **complaints**, what would else be written on stderr, reach it from every process.

The picture of how they are wired stands in :mod:`mprelay.supervisor.run`.
"""

__version__ = "0.2.0.dev0"
