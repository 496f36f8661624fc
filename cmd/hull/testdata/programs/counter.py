# Answers each line on a connection to port 7 with one. What it knows it knows from its memory, all of which it checks each time.
#   next   counts, and says how far it is
#   now    says how far it is
#   time   ns since 1970
#   mark   writes a file of its own to the disk
#   who    who this machine is: address of the network card, machine ID, boot ID, random numbers of three kinds, and the files
import glob, hashlib, os, random, socket, threading, time

pattern = bytes(range(256)) * 4096
memory = [bytearray(pattern) for _ in range(16)]
said = []  # for each number a digest of those before it

def chain(n):
    digest, all = b"", []
    for i in range(n):
        digest = hashlib.sha256(digest + str(i).encode()).digest()
        all.append(digest)
    return all

# A number is complete when a thread on each CPU has counted.
cpus = sorted(os.sched_getaffinity(0))
turns = [threading.Semaphore(0) for _ in cpus]
complete = threading.Semaphore(0)
counts = [0] * len(cpus)

def count(i):
    os.sched_setaffinity(0, {cpus[i]})
    while True:
        turns[i].acquire()
        counts[i] += 1
        (turns + [complete])[i + 1].release()

def number(more):
    if more:
        turns[0].release()
        complete.acquire()
        said.append(hashlib.sha256((said[-1] if said else b"") + str(len(said)).encode()).digest())
    if said != chain(len(said)) or counts != [len(said)] * len(cpus) or any(m != pattern for m in memory):
        return f"what is in memory is wrong: {counts}, {len(said)}"
    return len(said)

def read(path):
    with open(path) as f:
        return f.read().strip()

def mac():
    return read(glob.glob("/sys/class/net/e*/address")[0])

def mark():
    data = os.urandom(1 << 20)
    with open(f"/mark-{mac()}", "wb") as f:
        f.write(data)
        os.fsync(f.fileno())
    return hashlib.sha256(data).hexdigest()

def who():
    with open("/dev/urandom", "rb") as f:
        urandom = f.read(16).hex()
    files = [os.path.basename(path) + ":" + hashlib.sha256(open(path, "rb").read()).hexdigest() for path in glob.glob("/mark-*")]
    return " ".join([mac(), read("/etc/machine-id"), read("/proc/sys/kernel/random/boot_id"), urandom, os.urandom(16).hex(),
                     hex(random.SystemRandom().getrandbits(128)), *files])

lock = threading.Lock()

def answer(question):
    with lock:
        return {"next": lambda: number(True), "now": lambda: number(False), "time": time.time_ns, "mark": mark, "who": who}[question]()

def serve(c):
    try:
        for line in c.makefile():
            c.sendall(f"{answer(line.strip())}\n".encode())
    except OSError as e:
        print("a connection has ended:", e, flush=True)

for i in range(len(cpus)):
    threading.Thread(target=count, args=(i,), daemon=True).start()
server = socket.create_server(("", 7))
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
