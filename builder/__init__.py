"""Put the weights into the image: fetched as the manifest lists them, and checked."""
