"""What each command does. Only here is anything printed."""
