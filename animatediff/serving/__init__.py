"""The service: jobs from RunPod, one worker, and where finished files go."""
