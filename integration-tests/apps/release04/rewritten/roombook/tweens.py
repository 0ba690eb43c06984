from aiopyramid.helpers import synchronize, use_executor


def audit_tween_factory(handler, registry):
    write = synchronize(use_executor(registry.audit.append))

    def audit_tween(request):
        write(f"{request.method} {request.path}")
        response = handler(request)
        write(f"{request.path} {response.status_int} {request.authenticated_userid}")
        return response

    return audit_tween


def number_tween_factory(handler, registry):
    @synchronize
    async def next_number():
        await registry.store.round_trip()
        return next(registry.numbers)

    def number_tween(request):
        request.number = next_number()
        response = handler(request)
        response.headers["X-Number"] = str(request.number)
        return response

    return number_tween
