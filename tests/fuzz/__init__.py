"""A fuzzer that stays: what users, disks, other programs and attackers do to reports, and what dsprof says to it.

::

    make fuzz                                   a run of some minutes
    make fuzz ARGS=--long                       20,000 cases of all kinds
    make fuzz ARGS='--only kills --cases 50'    one kind; --seed N: other cases; --minutes M: no longer
    make fuzz ARGS='--replay FILE.json'         one case again, as a failure or the corpus holds it

A case is a kind, a seed and what was chosen by it (`case.Case`); everything in it follows from these, so it can be run
again. The kinds are the modules of `kinds`, found by being there: a new one is a file with a ``KIND``. What a case may
not do is in `case.FAULTS`. What once failed is kept in ``corpus/`` as a recipe, and tests/test_fuzz.py runs it.

It is a loop of its own and no property test, so that counts are exact and each case is the same on every machine.
"""
