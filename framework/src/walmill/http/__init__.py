"""The engine over HTTP: an ASGI application, mounted into others or served by itself."""
