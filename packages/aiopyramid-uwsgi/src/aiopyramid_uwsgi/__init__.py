"""Coroutine views and WebSockets for Pyramid under uWSGI."""
