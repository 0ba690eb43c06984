# Two commands need no preparation but Python 3.11 or later:
#   make demo   runs the demo application
#   make test   passes the tests
# make demo-uwsgi runs the demo under uWSGI, which it builds: gcc is needed.
# make project makes a project from the template, in the folder OUTPUT.
# Each makes the virtualenv .venv with Hatch in it, which does everything else.

PYTHON ?= python3
OUTPUT ?= ..
HATCH = .venv/bin/hatch
PYTHONS = 3.12 3.13

.PHONY: demo demo-uwsgi project test lint types docs build check pythons autobahn clean

# The servers are make's own processes, without Hatch and its shell between: so Ctrl-C and SIGTERM
# reach them and end make with the server's exit code.
demo: $(HATCH)
	@$(HATCH) run true
	@exec "$$($(HATCH) env find)/bin/gunicorn" -c demo/gunicorn.conf.py

demo-uwsgi: $(HATCH)
	@$(HATCH) run uwsgi:aiopyramid-uwsgi build
	@exec "$$($(HATCH) env find uwsgi)/bin/uwsgi" --ini demo/uwsgi.ini

project: $(HATCH)
	@$(HATCH) run template:make -o "$(OUTPUT)"

test: $(HATCH)
	$(HATCH) run test:run

lint: $(HATCH)
	$(HATCH) run lint:check

types: $(HATCH)
	$(HATCH) run types:check

docs: $(HATCH)
	$(HATCH) run docs:build

# One after the other: `hatch build --all --clean` would leave the last one alone, and knows only
# the members of the default environment.
build: $(HATCH)
	rm -rf dist
	set -e; for package in packages/*; do (cd $$package && "$(CURDIR)/$(HATCH)" build "$(CURDIR)/dist"); done

# The quick tests on other Python versions, of those that are installed.
pythons: $(HATCH)
	.ci/pythons $(PYTHONS)

# The whole Autobahn test suite, a quarter of an hour.
autobahn: $(HATCH)
	$(HATCH) run test:autobahn

check: lint types docs test

clean:
	rm -rf .venv dist docs/_build

$(HATCH):
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip "hatch>=1.18"
