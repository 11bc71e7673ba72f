"""Networks of other frameworks, exported as their users do, added and compared with the framework's answers."""
