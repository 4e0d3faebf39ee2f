"""Many jobs on several real workers, with kills, slow hosts and hostile inputs.

``run`` drives the queue and the workers, ``cases`` draws the jobs, ``vitals`` measures
the workers at rest, ``judge`` finds what went wrong, and ``report`` prints a table.
"""
