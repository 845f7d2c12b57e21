"""More requests than can be answered: S12, S13."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from deitkit.serving.exchange import Limits
from tests.serving.client import HUNG_S, wait_until
from tests.serving.running import Running, running
from tests.serving.toy import Toy, picture_bytes

PNG = "Content-Type: image/png"


def burst(here: Running, num: int, **headers: str) -> list[httpx.Response]:
    """`num` requests at once, each over its own connection; any reset raises."""
    with ThreadPoolExecutor(num) as threads:
        asked = [
            threads.submit(
                httpx.post,
                f"http://{here.host}/v1/predict",
                content=picture_bytes(),
                headers={"content-type": "image/png"} | headers,
                timeout=HUNG_S,
                verify=False,
            )
            for _ in range(num)
        ]
        return [one.result() for one in asked]


@pytest.mark.parametrize(
    ("limits", "refusal", "code"),
    [
        (Limits(pictures=100, pictures_per_client=6), 429, "too_many_requests"),
        (Limits(pictures=6, pictures_per_client=100), 503, "busy"),
    ],
)
def test_s12_a_burst_is_answered_to_the_last_request(limits, refusal: int, code: str):
    with running(Toy(seconds=0.05), limits=limits) as here:
        answers = burst(here, 80)
        counts = Counter(answer.status_code for answer in answers)
        assert counts[200] + counts[refusal] == 80
        assert counts[200] >= 6 and counts[refusal] > 0
        for answer in answers:
            if answer.status_code == refusal:
                assert answer.json()["error"]["code"] == code
                assert int(answer.headers["retry-after"]) >= 1
        assert here.server.guard.num_pictures == 0
        assert here.server.guard.num_bytes == 0
        series = 'deitkit_requests_total{route="/v1/predict",status="%d"}'
        assert here.metric(series % 200) == counts[200]
        assert here.metric(series % refusal) == counts[refusal]


def test_s12_one_clients_burst_leaves_room_for_another():
    """A proxy on this machine says who asks."""
    toy = Toy()
    with running(toy, limits=Limits(pictures=8, pictures_per_client=3)) as here:
        toy.gate.clear()
        with ThreadPoolExecutor(1) as threads:
            greedy = threads.submit(burst, here, 12, **{"x-forwarded-for": "10.0.0.1"})
            wait_until(lambda: here.server.guard.num_pictures == 3)
            wait_until(lambda: refused_so_far(here) == 9)
            modest = ThreadPoolExecutor(1).submit(burst, here, 1, **{"x-forwarded-for": "10.0.0.2"})
            wait_until(lambda: here.server.guard.num_pictures == 4)
            toy.gate.set()
            assert [answer.status_code for answer in modest.result()] == [200]
            counts = Counter(answer.status_code for answer in greedy.result())
        assert counts == {200: 3, 429: 9}


def refused_so_far(here: Running) -> float:
    return here.metric('deitkit_requests_total{route="/v1/predict",status="429"}')


def test_s13_who_waits_past_the_deadline_is_told_while_the_model_is_still_busy():
    toy = Toy()
    with running(toy, wait_timeout_s=0.3) as here:
        toy.gate.clear()
        before = list(toy.batches)
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(burst, here, 1)
            wait_until(lambda: toy.batches == [*before, 1])
            (second,) = burst(here, 1)
            assert (second.status_code, second.json()["error"]["code"]) == (503, "busy")
            assert int(second.headers["retry-after"]) >= 1
            toy.gate.set()
            assert first.result()[0].status_code == 200, "what was begun is finished"
        assert toy.batches == [*before, 1], "work on the second was never started"
        assert here.metric('deitkit_dropped_total{reason="deadline"}') == 1


def test_s13_explanations_have_the_deadline_too():
    toy = Toy()
    with running(toy, explain=lambda picture: {"class": "dark"}, wait_timeout_s=0.3) as here:
        assert here.ask(picture_bytes(), "/v1/explain").json()["class"] == "dark"
        toy.gate.clear()
        before = list(toy.batches)
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(burst, here, 1)
            wait_until(lambda: toy.batches == [*before, 1])
            answer = here.ask(picture_bytes(), "/v1/explain")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
            toy.gate.set()
            assert first.result()[0].status_code == 200


def test_s13_who_goes_leaves_the_queue():
    toy = Toy()
    with running(toy) as here:
        toy.gate.clear()
        before = list(toy.batches)
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(burst, here, 1)
            wait_until(lambda: toy.batches == [*before, 1])
            content = picture_bytes()
            with here.connect() as connection:
                head = here.head(PNG, f"Content-Length: {len(content)}")
                connection.sendall(head + content)
                wait_until(lambda: here.metric("deitkit_pictures_waiting") == 1)
            wait_until(lambda: here.metric('deitkit_dropped_total{reason="client_gone"}') == 1)
            assert here.metric("deitkit_pictures_waiting") == 0
            toy.gate.set()
            assert first.result()[0].status_code == 200
        assert toy.batches == [*before, 1]
        wait_until(lambda: here.server.guard.num_pictures == 0)
