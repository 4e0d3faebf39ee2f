"""The page: the only room that knows Gradio.

Gradio has an environment of its own, see requirements-app.txt.
"""
