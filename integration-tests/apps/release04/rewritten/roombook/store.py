import asyncio
from contextlib import asynccontextmanager


class RoomTaken(Exception):
    """Somebody else has booked the room."""


class Store:
    """What would be a database."""

    def __init__(self):
        self.bookings = {"attic": {}, "cellar": {"monday": "mary"}}
        self.users = {"john": ["staff"], "mary": []}
        self.orders = asyncio.Queue()

    async def execute(self, order):
        done = asyncio.Future()
        await self.orders.put((order, done))
        return await done

    async def round_trip(self):
        await asyncio.sleep(0.01)

    async def rooms(self):
        await self.round_trip()
        return sorted(self.bookings)

    async def room(self, name):
        await self.round_trip()
        return self.bookings[name]

    async def groups(self, userid):
        await self.round_trip()
        return self.users.get(userid)

    async def year(self, number):
        await self.round_trip()
        return {"2014": 311, "2015": 298}[number]

    async def book(self, name, day, userid):
        bookings = await self.room(name)
        owner = await self.execute(lambda: bookings.setdefault(day, userid))
        if owner != userid:
            raise RoomTaken(owner)
        return dict(bookings)


@asynccontextmanager
async def connection(registry):
    registry.store = Store()
    await registry.store.round_trip()  # no worker without a store
    yield


async def carry_out_orders(registry):
    while True:
        order, done = await registry.store.orders.get()
        await registry.store.round_trip()
        if not done.cancelled():  # its client has not left
            done.set_result(order())
