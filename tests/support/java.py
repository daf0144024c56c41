"""What Java is told that runs the brokers of tests."""

#: Only the compiler that is quick. What the thorough one makes of Kafka's code is faster, but a
#: broker that lives for seconds does not earn back what that takes: a third of all its CPU.
QUICK = ("-XX:TieredStopAtLevel=1",)
