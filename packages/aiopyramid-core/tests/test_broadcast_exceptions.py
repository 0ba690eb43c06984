from aiopyramid.broadcast.exceptions import BadEnvelope, BroadcastError, BrokerUnavailable


def test_what_was_not_sent_is_an_error_of_broadcasting():
    assert issubclass(BrokerUnavailable, BroadcastError)
    assert issubclass(BadEnvelope, ValueError)
