"""The same in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dcu.web.feed import Feed
from shared.daemon import resident_kib

GAUGES: Final = (
    ("headroom_export_watts", "export_w", "Measured export; below 0 the customer draws"),
    ("headroom_limit_watts", "limit_w", "Export limit that the meter applies"),
    ("headroom_nominal_limit_watts", "nominal_w", "Export limit without a grant"),
    ("headroom_granted_watts", "granted_w", "Limit of the live grant"),
    ("headroom_reserved_watts", "reserved_w", "Capacity that the DCU keeps"),
    ("headroom_available_watts", "headroom_w", "Export limit that the customer could have now, alone"),
    ("headroom_reading_age_seconds", "age_s", "Age of the newest reading"),
    ("headroom_linked", "linked", "Whether the meter is in a protected session"),
)


class StreetCollector(Collector):
    """Reads the newest look whenever it is scraped."""

    def __init__(self, feed: Feed, viewers: Any, refused: dict[int, int]) -> None:
        self._feed, self._viewers, self._refused = feed, viewers, refused

    def collect(self) -> Iterable[Metric]:
        street = self._feed.street
        heard = street["state"] != "down"  # what was heard last is no measurement: it would never look old
        yield GaugeMetricFamily("headroom_dcu_up", "Whether the DCU answers", float(street["state"] == "live"))
        if heard:
            yield from self._of_dcu(street)
        yield from self._of_page(street)
        customers = street["customers"] if heard else []
        for name, key, help_text in GAUGES:
            gauge = GaugeMetricFamily(name, help_text, labels=["meter"])
            for customer in customers:
                if customer[key] is not None:
                    gauge.add_metric([customer["id"]], float(customer[key]))
            yield gauge
        volts = GaugeMetricFamily("headroom_voltage_volts", "Phase to neutral", labels=["meter", "phase"])
        for customer in customers:
            for phase, u in zip(customer["phases"], customer["u_v"], strict=False):
                if u is not None:
                    volts.add_metric([customer["id"], phase], u)
        yield volts

    def _of_dcu(self, street: dict[str, Any]) -> Iterator[Metric]:
        yield GaugeMetricFamily("headroom_quarantine", "Whether nothing is granted yet", float(street["quarantine"]))
        yield GaugeMetricFamily("headroom_grants", "Live grants", float(street["granted"]))
        yield GaugeMetricFamily("headroom_increase_watts", "Granted beyond nominal limits", float(street["increase_w"]))
        if street["ledger_entries"] is not None:
            entries = float(street["ledger_entries"])
            yield GaugeMetricFamily("headroom_ledger_entries", "Entries in the log", entries)

    def _of_page(self, street: dict[str, Any]) -> Iterator[Metric]:
        alarms = GaugeMetricFamily("headroom_alarms", "Alarms by level", labels=["level"])
        for level in ("alarm", "warning", "note"):
            alarms.add_metric([level], sum(alarm["level"] == level for alarm in street["alarms"]))
        yield alarms
        yield CounterMetricFamily(
            "headroom_web_looks_failed", "Looks at the DCU without an answer", self._feed.failures
        )
        yield GaugeMetricFamily("headroom_web_viewers", "Open streams", float(self._viewers.open))
        refused = CounterMetricFamily("headroom_web_refused", "Requests refused, by status", labels=["status"])
        for status, number in self._refused.items():
            refused.add_metric([str(int(status))], number)
        yield refused
        yield GaugeMetricFamily("headroom_web_resident_bytes", "Memory of this process", 1024.0 * resident_kib())


def render(feed: Feed, viewers: Any, refused: dict[int, int]) -> bytes:
    """The text of one scrape."""
    registry = CollectorRegistry()
    registry.register(StreetCollector(feed, viewers, refused))
    return generate_latest(registry)
