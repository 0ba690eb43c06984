"""A script for the shop: adds a product, and prints what there is."""

import sys

from lifespan import Product
from pyramid.paster import bootstrap
from pyramid.request import Request

from aiopyramid.helpers import synchronize


@synchronize
async def add(registry, name, price):
    async with registry.new_session.begin() as session:
        session.add(Product(name=name, price=price))


def main(ini, name, price):
    with bootstrap(ini) as env:
        add(env["registry"], name, float(price))  # starts the loop, and enters the lifespans
        response = env["app"].invoke_subrequest(Request.blank("/products"))
        print(response.text)


if __name__ == "__main__":
    main(*sys.argv[1:])
