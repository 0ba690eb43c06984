"""Coroutine views and WebSockets for Pyramid under gunicorn."""
