"""The page for people: a form of a job, back ends that make clips, and a gallery.

Only ``page`` and what it imports need Gradio; nothing else of the package imports them.
"""
