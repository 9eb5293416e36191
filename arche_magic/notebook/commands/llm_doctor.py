"""`%llm_doctor`: check the configuration, and say how to fix it."""

from __future__ import annotations

from ..command import Session, Shown, Typed, command, option


@command(option("--send", "Also send one short prompt to each model."))
def llm_doctor(session: Session, typed: Typed) -> Shown:
    """Check files, addresses, keys, models, clock and ledger, and give advice.

    It asks each provider for its list of models, which uses no quota; with --send it also sends a
    short prompt to each model. Returns a DataFrame.

    Usage:
      %llm_doctor [OPTIONS]

    Examples:
      %llm_doctor
      %llm_doctor --send
    """
    from arche_magic.llm_providers.doctor import examine

    from ..findings import findings_bundle, findings_frame

    findings = examine(send=typed.options.send)
    return findings_bundle(findings), findings_frame(findings)
