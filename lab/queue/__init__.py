"""A local job queue, its worker processes and a real S3 server, on loopback."""
