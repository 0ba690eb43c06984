import pytest


def test_strangers_are_asked_for_a_name(testapp):
    response = testapp.get("/", status=303).follow()
    assert "Who are you?" in response


@pytest.mark.parametrize(
    "name", ["", "x" * 31, "\N{ZERO WIDTH SPACE}", "\N{RIGHT-TO-LEFT OVERRIDE}Ann"]
)
def test_a_name_must_be_readable(testapp, name):
    form = testapp.get("/sign-in").form
    form["name"] = name
    response = form.submit(status=400)
    assert "A name has 1 to 30 characters that can be seen." in response


def test_a_form_without_a_token_is_refused(testapp):
    response = testapp.post("/sign-in", {"name": "Ann"}, status=400)
    assert "That page was too old." in response


def test_the_page_is_for_those_who_have_signed_in(signed_in):
    assert "Ann" in signed_in.get("/")
    assert signed_in.get("/").forms[0].submit(status=303).location.endswith("/sign-in")
    signed_in.get("/", status=303)


def test_signing_out_twice_asks_for_a_name(signed_in):
    form = signed_in.get("/").forms[0]
    form.submit(status=303)
    assert form.submit(status=303).location.endswith("/sign-in")


def test_names_are_text(testapp, sign_in):
    assert "&lt;b&gt;Ann&lt;/b&gt;" in sign_in(testapp, "<b>Ann</b>")


def test_nothing_is_elsewhere(testapp):
    assert "Nothing is here" in testapp.get("/elsewhere", status=404)
