from .errors import AnimateDiffError

__all__ = ["AnimateDiffError"]
