"""When schedules are due: intervals, cron expressions, and the planner. Instants are ns since the epoch, UTC."""
