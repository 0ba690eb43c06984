from pyramid.authorization import DENY_ALL, Allow, Authenticated

from aiopyramid.helpers import synchronize


class Building:
    """The root of the tree; its rooms are in the store."""

    __name__ = ""
    __parent__ = None

    def __init__(self, request):
        self.store = request.registry.store

    @synchronize
    async def __getitem__(self, name):
        return Room(self, name, await self.store.room(name))


class Room:
    def __init__(self, parent, name, bookings):
        self.__parent__ = parent
        self.__name__ = name
        self.store = parent.store
        self.bookings = bookings

    @synchronize
    async def __acl__(self):
        await self.store.round_trip()
        if self.__name__ == "cellar":
            return [(Allow, "group:staff", "book"), DENY_ALL]
        return [(Allow, Authenticated, "book"), DENY_ALL]


class Archive:
    def __init__(self, request):
        self.store = request.registry.store

    @synchronize
    async def __getitem__(self, number):
        return Year(number, await self.store.year(number))


class Year:
    def __init__(self, number, count):
        self.number = number
        self.count = count
