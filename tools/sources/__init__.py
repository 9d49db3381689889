"""What people have on disk: layouts, tables of grades, and which photograph has which grade."""
