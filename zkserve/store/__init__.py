"""Tables, migrations and the queries on them."""
