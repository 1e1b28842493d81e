"""The client's side of HTTP: the seam to aiohttp, bodies in, uploads, errors and fields out."""
