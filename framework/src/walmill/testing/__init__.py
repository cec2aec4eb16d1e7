"""What tests of the engine, and of applications that host it, put in place of the outside world."""
