"""The parts of a page: a form of a job, back ends that make clips, and a gallery.

The page itself is not here yet. These parts import no toolkit for pages.
"""
