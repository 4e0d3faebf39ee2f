"""What puts the weights into the image: fetched as the manifest says, checked,
converted once.
"""
