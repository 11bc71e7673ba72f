"""Networks of other frameworks, exported as users do, added, and compared with the framework's answers."""
