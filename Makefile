# Two commands need no preparation but Python 3.11 or later:
#   make demo   runs the demo application
#   make test   passes the tests
# make demo-uwsgi runs the demo under uWSGI, which it builds: gcc is needed.
# Each makes the virtualenv .venv with Hatch in it, which does everything else.

PYTHON ?= python3
HATCH = .venv/bin/hatch

.PHONY: demo demo-uwsgi test lint types docs build check autobahn clean

demo: $(HATCH)
	$(HATCH) run demo

demo-uwsgi: $(HATCH)
	$(HATCH) run uwsgi:demo

test: $(HATCH)
	$(HATCH) run test:run

lint: $(HATCH)
	$(HATCH) run lint:check

types: $(HATCH)
	$(HATCH) run types:check

docs: $(HATCH)
	$(HATCH) run docs:build

build: $(HATCH)
	$(HATCH) build --all --clean

# The whole Autobahn test suite, a quarter of an hour.
autobahn: $(HATCH)
	$(HATCH) run test:autobahn

check: lint types docs test

clean:
	rm -rf .venv dist docs/_build

$(HATCH):
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip "hatch>=1.18"
