"""The parts of a page: a form of a job, back ends that make clips, and a gallery.

They import no toolkit for pages, but for ``page``.
"""
