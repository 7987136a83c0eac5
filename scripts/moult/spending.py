"""What answers cost."""


def usage_of(values, settings):
    """Return calls, tokens and cost of stored answers; cost is null where the price is unknown, 0 where we serve."""
    totals = {name: sum(value[name] for value in values) for name in ("prompt_tokens", "completion_tokens")}
    price = settings.get("price")
    cost = None if settings.get("url") else 0.0
    if price:
        cost = totals["prompt_tokens"] * price["input"] + totals["completion_tokens"] * price["output"]
        cost = round(cost / 1e6, 6)
    return {
        "endpoint": settings["name"],
        "model": settings.get("model") or settings.get("serve"),
        "calls": len(values),
        "failed": sum(value["finish_reason"] == "error" for value in values),
        **totals,
        "cost_usd": cost,
    }
