"""The audit: reads every database and every stream, and says whether the books balance.

It believes nobody: its queries are its own, over connections that cannot write, and share no code with the services'
stores and tables. What facts under way may explain is looked at again until it vanishes or has stood for a while.
"""

from orderly.audit.looking import audit
from orderly.audit.reading import CannotAudit
from orderly.audit.report import Limits, Report

__all__ = ["CannotAudit", "Limits", "Report", "audit"]
