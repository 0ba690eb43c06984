def test_strangers_are_asked_for_a_name(testapp):
    response = testapp.get("/", status=303).follow()
    assert "Who are you?" in response


def test_the_name_is_checked(testapp):
    form = testapp.get("/sign-in").form
    form["name"] = "x" * 31
    assert "A name has 1 to 30 characters." in form.submit(status=400)


def test_a_form_without_a_token_is_refused(testapp):
    testapp.post("/sign-in", {"name": "Ann"}, status=400)


def test_the_page_is_for_those_who_have_signed_in(signed_in):
    assert "Ann" in signed_in.get("/")
    assert signed_in.get("/").forms[0].submit(status=303).location.endswith("/sign-in")
    signed_in.get("/", status=303)


def test_names_are_text(testapp, sign_in):
    assert "&lt;b&gt;Ann&lt;/b&gt;" in sign_in(testapp, "<b>Ann</b>")


def test_nothing_is_elsewhere(testapp):
    assert "Nothing is here" in testapp.get("/elsewhere", status=404)
