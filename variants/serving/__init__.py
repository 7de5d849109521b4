"""The server: what happens to one request, in the order of its time.

A request crosses into ``variants`` once, as the bytes of a container, and comes back once, as a reply
with its spans. In one process (``topology=inprocess``):

    harness.workload.loops                 it is due, and is sent
    ─────────────────────────────────────────────────────────────────────────────────── into variants
    topology.inprocess.InProcess.handle    queue       until it is its turn (topology.access)
    frontend.host.Chain                    decode      container to samples, every channel
                                           resample    mono at the model's rate
                                           denoise     steady noise
                                           vad         where speech is
                                           segment     what is transcribed on its own
    harness.protocols.Work                             the samples, the spans, and who to tell
    batching.alone.Alone.submit, .step     batch       what a batching choice makes it wait
    serving.inference.EncoderDecoder       features    samples to what the model hears
                                           encoder     features to states
                                           decoder     states to tokens
                                           text        tokens to text
    topology.inprocess._reply              reply       the answer, and its spans
    ───────────────────────────────────────────────────────────────────────────────── back to harness
    harness.run.samples.to_sample                      the ledger is balanced, the row journaled

Between processes (``collapsed``, ``microservices``) ``topology.pipeline.Pipeline.submit`` takes the
place of ``handle``. Its item passes ``topology.worker.Worker._take`` in every process, which has
``topology.roles`` do that process's part of the same list, and every hop adds ``queue`` and ``ipc``.
Behind sockets, ``harness.workload.client_recordings`` sends the bytes, and an io choice (``io.epoll``,
``io.threads``, …) submits them to the same topology in the server's process (``serving.server``).

With ``frontend=device`` the host's chain is ``decode`` alone; ``frontend.device.stages.DeviceStages`` has
resample, denoise, vad and segment done between ``batch`` and ``features``, a batch of recordings at a time.

A live stream takes the lower half: each chunk of samples is a ``Work`` of its stream, whose state the
engine keeps (``serving.streams``, ``serving.rolling``), and no stage of the front end sees it. A choice that
batches has streams in the slots of a pool and computes their next chunks together (``batching.live``).

``serving.spec`` puts the parts together from the leaf chosen on each axis, in whichever process they run.
"""
