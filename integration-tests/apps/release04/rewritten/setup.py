from setuptools import find_packages, setup

setup(
    name="roombook",
    version="2.0",
    description="Rooms and who has booked them",
    packages=find_packages(),
    install_requires=["aiopyramid-gunicorn", "aiopyramid-uwsgi"],
    entry_points={"paste.app_factory": ["main = roombook:main"]},
)
